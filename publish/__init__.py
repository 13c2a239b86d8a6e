"""From a finished run to a model hub: the card, the checks, the upload. Reads files on disk; knows no stage."""
