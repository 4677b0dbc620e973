"""The command line: one module a verb, each of which parses, calls the library and prints.

Results go to stdout, progress and errors to stderr. A verb's module is imported only when the
verb is used, so that `sparring --help` needs neither torch nor a parser.
"""

__all__: list[str] = []
