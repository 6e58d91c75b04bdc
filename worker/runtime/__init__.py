"""Parts that every loop needs: back-off, outages logged once, deadlines for waits, limited logs."""
