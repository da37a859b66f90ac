"""The report page of a run: its data, the file that holds them, and the server of a run that goes on."""
