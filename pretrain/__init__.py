"""Pretrain an encoder on unlabeled text: `python -m pretrain configs/pretrain/default.yaml`."""
