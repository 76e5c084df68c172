import torch

from trainer.model.masks import DocumentBorder, attention_mask


def test_masks_by_hand() -> None:
    tokens = torch.tensor([[9, 5, 9, 5]])
    window = attention_mask(tokens, 2, None)
    assert window is not None
    assert window[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    opened = attention_mask(tokens, None, DocumentBorder(9, opens=True))
    assert opened is not None
    assert opened[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    closed = attention_mask(tokens, None, DocumentBorder(9, opens=False))
    assert closed is not None
    assert closed[0, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert attention_mask(tokens, None, None) is None
