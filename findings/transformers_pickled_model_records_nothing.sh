#!/usr/bin/env bash
# A model of transformers that was saved whole (torch.save, pickle, a worker process) and is loaded in another process
# ignores output_hidden_states=True and output_attentions=True without a word: what a class can record is noted in a
# table when a model of the class is built, and unpickling builds none. Once any model of the class has been built in
# that process, the loaded one records, too. X-Codec, whose encoder reads the hidden states of HuBERT, fails on it.
# The other direction: after the first call with output_hidden_states=True the model cannot be pickled any more, since
# the hooks of that call, local functions, stay.
#
# Seen with transformers 5.24.0, torch 2.14.1: hidden states None in the second process, then 3; AttributeError: Can't
# pickle local object 'install_output_capuring_hook.<locals>.output_capturing_hook'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 transformers==5.24.0 numpy
cd "$folder"
venv/bin/python - <<'Y'
import torch
from transformers import BertConfig, BertModel

small = {'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 16}
model = BertModel(BertConfig(vocab_size=20, **small)).eval()
torch.save(model, 'model.pt')
found = model(torch.arange(5)[None], output_hidden_states=True).hidden_states
print('first process:', len(found), 'hidden states')
assert len(found) == 3
try:
    torch.save(model, 'again.pt')
except AttributeError as error:
    print('saved after that call:', error)
else:
    raise SystemExit('the behavior has changed: the model can be pickled')
Y
venv/bin/python - <<'Y'
import torch
from transformers import BertModel

model = torch.load('model.pt', weights_only=False)
found = model(torch.arange(5)[None], output_hidden_states=True).hidden_states
print('second process: hidden states', found)
assert found is None, 'the behavior has changed'
BertModel(model.config)
found = model(torch.arange(5)[None], output_hidden_states=True).hidden_states
print('after another model of the class was built:', len(found), 'hidden states')
assert len(found) == 3
Y
