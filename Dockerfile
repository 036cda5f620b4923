FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY billing_client billing_client
COPY billing_service billing_service
COPY sql sql
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .
# Without pip in the virtual environment, nothing in the final image can install packages.
RUN python -m venv --without-pip /opt/billing \
    && pip --python /opt/billing/bin/python install --no-cache-dir "$(echo /dist/*.whl)[service,redis,otel,signatures,pdf]"

FROM python:3.13-slim
# What WeasyPrint draws PDFs with, and a font. Names in scripts that DejaVu lacks, such as Chinese, need another font.
RUN apt-get update \
    && apt-get install -y --no-install-recommends fonts-dejavu-core libharfbuzz-subset0 libpangoft2-1.0-0 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin billing
COPY --from=build /opt/billing /opt/billing
ENV PATH=/opt/billing/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    BILLING_ENV=production BILLING_HOST=0.0.0.0 BILLING_PORT=3000
USER 10001
EXPOSE 3000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['BILLING_PORT'] + '/readyz', timeout=2)"]
CMD ["billing-service", "serve"]
