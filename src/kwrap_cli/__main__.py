"""`python -m kwrap_cli`: the command line where its script is not on the path."""

from kwrap_cli import main

main(prog_name="kwrap")
