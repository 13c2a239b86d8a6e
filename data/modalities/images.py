"""Images: what pretraining, fine-tuning and publishing share."""

from data.modalities import Modality


class Images(Modality):
    """Images."""

    name, input_noun, inputs_noun, unit = "images", "image", "images", "images"

    def auto_class(self, problem_type):
        return "AutoModelForImageClassification"

    def pipeline_task(self, problem_type):
        return "image-classification"


MODALITY = Images()
