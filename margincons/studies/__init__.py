"""What the book studies with margins: one question per file, and the runs whose records ship with the package."""
