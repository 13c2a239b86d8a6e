"""Stage one: an encoder from unlabelled text. `python -m pretrain configs/pretrain/default.yaml`."""
