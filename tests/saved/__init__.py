"""Files that each released version of kwrap wrote, and the models in them. What is here never changes."""
