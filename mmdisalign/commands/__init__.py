"""What the tools do once their arguments are known; each of them imports what it needs here."""
