"""The DataModule and where its problems come from."""
