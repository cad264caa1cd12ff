"""From a time limit to the best model that fits in it: plan, trials, finish.

The only room that knows optuna.
"""
