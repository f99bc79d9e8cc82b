"""The command line: argparse and printing, nothing else."""
