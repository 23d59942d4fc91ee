"""What compiled programs need on accelerators that need not be here."""
