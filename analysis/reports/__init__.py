"""Pages and files: the HTML report, the watch screen, pictures written without overwriting."""
