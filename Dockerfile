# The Space on a CPU. The second command serves a release of the Hub instead of the bundled one:
#
#     docker build --tag dermalert-space .
#     docker run --publish 7860:7860 --env MODEL_ID=USER/REPO --env MODEL_REVISION=v1.0.0 dermalert-space
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 space
WORKDIR /home/space/app

COPY space/requirements.txt ./
# Of equal versions pip takes PyTorch's own build for CPUs, which is GBs smaller than that of PyPI.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu --requirement requirements.txt
COPY space ./

USER 1000
# Made here, so that a volume at this place belongs to the user.
RUN mkdir -p /home/space/.cache/huggingface

# Without MODEL_ID the bundled release is served.
ENV MODEL_ID="" \
    MODEL_REVISION="" \
    HF_HOME=/home/space/.cache/huggingface \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    PYTHONUNBUFFERED=1
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=3m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=8)"]
CMD ["python", "app.py"]
