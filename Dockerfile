# docker build .                                                                     a CPU image
# docker build --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 \
#              --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .      a CUDA image
ARG BASE=ubuntu:24.04
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=onnx,huggingface,codes,parallel,slurm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# The dependencies change more seldom than the code. Torch has an index of its own for each kind of machine, and its version there a suffix.
WORKDIR /opt/siglip-med
COPY constraints.txt ./
RUN python -m pip install --index-url "${TORCH_INDEX}" "$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' constraints.txt)"
COPY . .
RUN grep -v '^torch==' constraints.txt > others.txt \
    && python -m pip install -c others.txt ".[${EXTRAS}]"

RUN useradd --create-home researcher
USER researcher
WORKDIR /home/researcher
CMD ["siglip-med-train", "--help"]
