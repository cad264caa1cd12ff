"""From a trained model and pictures to masks at the pictures' own sizes."""
