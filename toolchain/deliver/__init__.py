"""What leaves the program: tables and reports."""
