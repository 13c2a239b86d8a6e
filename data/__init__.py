"""From raw text and labelled rows to numbered batches. It knows no objectives, and of heads how each reads a label."""
