// Records usage with a client that is generated from the OpenAPI document. Run it as often as you like.
//
//   npm install && npm run generate && npm run build && npm start
//
// BILLING_BASE_URL names the service (http://127.0.0.1:3000), BILLING_API_KEY the key, if it needs one.

import { createHash, randomUUID } from "node:crypto";
import createClient from "openapi-fetch";
import { retryingFetch } from "./retry.js";
import type { components, paths } from "./schema.js";

type Usage = components["schemas"]["NewUsage"];

const baseUrl = process.env["BILLING_BASE_URL"] ?? "http://127.0.0.1:3000";
const key = process.env["BILLING_API_KEY"];
const client = createClient<paths, "application/json" | "application/problem+json">({
  baseUrl,
  fetch: retryingFetch(),
  ...(key === undefined ? {} : { headers: { Authorization: `Bearer ${key}` } }),
});

/** The request id, as the service computes it: anyone can tell what is the same usage. */
function requestId(customerId: string, eventId: string): string {
  return createHash("sha256").update(JSON.stringify(["event.v1", customerId, eventId])).digest("hex");
}

/** Records one use; says what became of it. Numbers are strings: a number of JavaScript does not hold 0.1. */
async function record(usage: Usage, idempotencyKey: string = randomUUID()): Promise<string> {
  const { data, error, response } = await client.POST("/usage", {
    body: usage,
    params: { header: { "Idempotency-Key": idempotencyKey } },
  });
  if (data !== undefined) {
    const replayed = response.headers.get("Idempotent-Replayed") === "true";
    return `${replayed ? "replayed" : "recorded"}: ${data.amount}`;
  }
  switch (error.code) {
    case "duplicate_record":
      return `duplicate of ${error.existing?.amount}`;
    case "event_id_conflict":
      return `conflict: ${error.conflicts?.map((each) => `${each.field} was ${each.recorded}, now ${each.submitted}`)}`;
    default:
      throw new Error(`${error.code}: ${error.detail}`);
  }
}

async function main(): Promise<void> {
  const customerId = `example-${randomUUID()}`;
  await client.POST("/customers", { body: { id: customerId, name: "Example" } });

  const use: Usage = {
    customerId,
    service: "storage",
    unitsConsumed: "1.5",
    pricePerUnit: "0.02",
    eventId: "volume-17/2026-10-01",
    occurredAt: "2026-10-01T00:00:00Z",
    dimensions: { region: "eu" },
  };
  const call = randomUUID();
  console.log("record   ", await record(use, call));
  console.log("retry    ", await record(use, call));
  console.log("again    ", await record(use));
  console.log("conflict ", await record({ ...use, unitsConsumed: "2" }));

  const records: Usage[] = [1, 2, 3].map((job) => ({
    customerId: job === 3 ? "nobody" : customerId,
    service: "compute",
    unitsConsumed: String(job),
    pricePerUnit: "0.25",
    eventId: `job-${job}`,
    occurredAt: "2026-10-02T00:00:00Z",
  }));
  const batch = await client.POST("/usage/batch", { body: { records } });
  if (batch.data === undefined) throw new Error(batch.error.detail);
  for (const result of batch.data.results) {
    console.log("batch    ", result.outcome, result.record?.amount ?? result.problem?.code);
  }

  const path = { customerId };
  const found = await client.GET("/customers/{customerId}/usage/{requestId}", {
    params: { path: { customerId, requestId: requestId(customerId, "job-2") } },
  });
  console.log("found    ", found.data?.eventId, found.data?.amount);

  const summary = await client.GET("/customers/{customerId}/summary", {
    params: { path, query: { groupBy: "service" } },
  });
  for (const group of summary.data?.groups ?? []) {
    console.log("summary  ", group.service, group.records, group.units, group.amount);
  }

  const statement = await client.GET("/customers/{customerId}/statement", {
    params: { path, query: { month: "2026-10" } },
  });
  if (statement.data !== undefined && "total" in statement.data) {
    // else it is 202: a month of very many records is still prepared
    console.log("statement", statement.data.total.amount, statement.data.currency);
  }
}

await main();
