"""Pushes an adapter, waits for its job, resolves the task and loads what serves it into PEFT.

    python push.py SOCKET BASE_MODEL TASK ADAPTER_DIRECTORY [MODEL]
"""

import hashlib
import pathlib
import sys

import grpc
from kmerge.v1 import adapter_pb2, adapter_pb2_grpc, common_pb2, job_pb2, job_pb2_grpc, slot_pb2, slot_pb2_grpc

socket, base_model, task, directory, *model = sys.argv[1:]
channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")])
config = pathlib.Path(directory, "adapter_config.json").read_bytes()
tensors = pathlib.Path(directory, "adapter_model.safetensors").read_bytes()


def messages():
    yield adapter_pb2.UploadAdapterRequest(header=adapter_pb2.UploadHeader(
        task=task, base_model=base_model, format=common_pb2.ADAPTER_FORMAT_PEFT, config=config,
        size_bytes=len(tensors), sha256=hashlib.sha256(tensors).hexdigest()))
    for start in range(0, len(tensors), 1 << 18):
        yield adapter_pb2.UploadAdapterRequest(chunk=tensors[start:start + (1 << 18)])


job = adapter_pb2_grpc.AdapterServiceStub(channel).UploadAdapter(messages()).job
for change in job_pb2_grpc.JobServiceStub(channel).WatchJob(job_pb2.WatchJobRequest(id=job.id)):
    job = change.job
if job.state != job_pb2.JOB_STATE_DONE:
    sys.exit(f"job {job.id} failed: {job.error.message}")
found = slot_pb2_grpc.SlotServiceStub(channel).ResolveTask(
    slot_pb2.ResolveTaskRequest(base_model=base_model, task=task))
print(f"{task}: slot {found.slot}, generation {found.generation}, {found.path}")
if model:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model[0]), found.path)
    print(f"loaded into {model[0]}")
