"""Learning from unlabeled text: self-training, documents, task-adaptive pretraining."""
