"""The fine-tuning stage: a head on an encoder, trained on few labels."""
