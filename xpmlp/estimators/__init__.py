"""MLPClassifier and MLPRegressor: scikit-learn's interface over the same step and loop."""
