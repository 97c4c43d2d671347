"""`python -m lib.cli`: the command line where the project is not installed, as in its images."""

from lib.cli.main import main

main()
