"""The command line of the analysis, one file a command. Importing one costs argparse and nothing more."""
