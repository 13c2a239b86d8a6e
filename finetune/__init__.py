"""Stage two: a head on an encoder, taught with few labels. `python -m finetune configs/finetune/sentiment.yaml`."""
