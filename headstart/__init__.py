"""The command `headstart`, above all packages: `headstart pretrain ARGS` is `python -m pretrain ARGS`."""
