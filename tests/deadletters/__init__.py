"""Dead letters: how they are made, kept and sent again."""
