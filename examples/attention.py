"""The source words that a translation attends to: cross-attention of the last layer, averaged over heads."""

import lapwing

with lapwing.load("lapwing/tiny-en-de") as model:
    source = model.tokenizer.encode("A dog runs through the snow.")
    result = model.translate("A dog runs through the snow.")
    target = [model.config["decoder_start_token_id"], *result.ids[:-1]]
    weights = model.attentions(source, -1, target, cross=True).mean(axis=0)
    for row, index in zip(weights, result.ids, strict=True):
        best = model.tokenizer.id_to_token(source[int(row.argmax())])
        print(f"{model.tokenizer.id_to_token(index):12} {best}")
