"""`python -m sparring`: the command line without the installed script."""

from sparring.cli.main import main

raise SystemExit(main())
