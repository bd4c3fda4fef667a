"""From a folder of images to clusters, a report and a model, with settings that are chosen and said beforehand."""
