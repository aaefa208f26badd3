"""MLPClassifier and MLPRegressor: scikit-learn's interface to xpmlp's training step and loop."""
