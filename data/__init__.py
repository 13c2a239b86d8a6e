"""From raw text and labelled rows to numbered batches. It knows neither objectives nor heads."""
