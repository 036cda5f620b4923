// Express, pg and zod, as their users write it: a pool, a schema, one insert for each request.
import { createHash } from "node:crypto";
import express from "express";
import pg from "pg";
import { z } from "zod";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: Number(process.env.POOL_SIZE) });
const decimal = z.string().regex(/^\d{1,20}(\.\d{1,18})?$/);
const newUsage = z.object({
  customerId: z.string().min(1).max(128),
  service: z.string().min(1).max(200),
  unitsConsumed: decimal,
  pricePerUnit: decimal,
  eventId: z.string().min(1).max(128),
});
const insert = {
  name: "insert-usage", // prepared once for each connection
  text: `INSERT INTO usage_records
    (customer_id, request_id, event_id, service, units_consumed, price_per_unit, occurred_at, recorded_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
    ON CONFLICT (customer_id, request_id) DO NOTHING
    RETURNING units_consumed * price_per_unit AS amount`,
};

const app = express();
app.disable("x-powered-by");
app.disable("etag");
app.use(express.json());

app.post("/usage", async (request, response) => {
  const parsed = newUsage.safeParse(request.body);
  if (!parsed.success) return response.status(400).json({ errors: parsed.error.issues });
  const { customerId, service, unitsConsumed, pricePerUnit, eventId } = parsed.data;
  const requestId = createHash("sha256").update(JSON.stringify(["event.v1", customerId, eventId])).digest();
  const now = new Date();
  const values = [customerId, requestId, eventId, service, unitsConsumed, pricePerUnit, now];
  const { rows } = await pool.query({ ...insert, values });
  if (rows.length === 0) return response.status(409).json({ error: "duplicate_record" });
  const record = { ...parsed.data, requestId: requestId.toString("hex"), amount: rows[0].amount, recordedAt: now };
  return response.status(201).json(record);
});

app.listen(Number(process.env.PORT), "127.0.0.1");
