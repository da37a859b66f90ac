# The image of configs/rayjob.yaml: git archive HEAD | docker build -t <registry>/raysearch:<tag> -
FROM rayproject/ray:2.60.0-py312-gpu
COPY --chown=ray . /home/ray/raysearch
RUN pip install --no-cache-dir "ray[default]==2.60.0" -e /home/ray/raysearch
WORKDIR /home/ray/raysearch
