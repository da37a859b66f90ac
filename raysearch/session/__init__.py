"""One run: its plan, its searches, its journal and tables, its progress and display."""
