-- Usage that was refused, so that "why was this not billed?" has an answer: event ids that came back with other data, input
-- that is not valid, unknown customers. Duplicates are not kept. The rows are bounded in number and age. There is no foreign
-- key: a refusal may name a customer that does not exist, and '' stands for none. Ids are UUIDv7, in the order of time.
CREATE TABLE usage_refusals (
    customer_id text COLLATE "C" NOT NULL,
    refusal_id uuid NOT NULL,
    refused_at timestamptz NOT NULL,
    code text COLLATE "C" NOT NULL,
    submitted_by bytea,
    request_id bytea,
    event_id text COLLATE "C",
    errors text,
    conflicts text,
    submitted text NOT NULL,
    CONSTRAINT usage_refusals_pkey PRIMARY KEY (customer_id, refusal_id),
    CONSTRAINT usage_refusals_submitted_by_check CHECK (octet_length(submitted_by) = 8),
    CONSTRAINT usage_refusals_request_id_check CHECK (octet_length(request_id) = 32)
);

CREATE INDEX usage_refusals_refusal_id_idx ON usage_refusals (refusal_id);

-- What changed of which customers, for those who watch: a few rows a second at most, written after the commits that they tell
-- of, and deleted after minutes. `more` says that customers changed whose ids are not there.
CREATE TABLE changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY,
    changed_at timestamptz NOT NULL,
    kind text COLLATE "C" NOT NULL,
    customer_ids text[] NOT NULL,
    more boolean NOT NULL,
    CONSTRAINT changes_pkey PRIMARY KEY (change_id)
);
