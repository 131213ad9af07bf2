"""The command line of the trainer, one file a command. Importing one costs argparse and nothing more."""
