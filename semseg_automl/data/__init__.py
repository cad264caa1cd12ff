"""Tables, pictures, masks, splits, augmentation and the torch data set; imports nothing by itself."""
