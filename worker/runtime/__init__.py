"""What every loop needs: back-off, outages told once, deadlines for waits, log lines that stay few."""
