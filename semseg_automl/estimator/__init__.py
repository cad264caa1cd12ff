"""The façade: scikit-learn's contract over the rooms below; owns no algorithm."""
