// Repeats a call until it is answered or its time is up. Each attempt is the same request under the same
// Idempotency-Key, so the service knows a retry from a second report of the same usage.

export interface RetryOptions {
  /** Milliseconds that a call may take, over all attempts and the waits between them. */
  deadline?: number;
  /** Milliseconds that one attempt may take, to the last byte of its answer. */
  attempt?: number;
}

/** Nothing was done, or it is unknown and the same call again is safe. No other status is worth another attempt. */
const RETRIED = new Set([408, 429, 502, 503, 504]);
const FIRST_WAIT = 100;
const LONGEST_WAIT = 10_000;

/** A `fetch` that retries, for openapi-fetch: `createClient<paths>({ baseUrl, fetch: retryingFetch() })`. */
export function retryingFetch(options: RetryOptions = {}): (request: Request) => Promise<Response> {
  const { deadline = 30_000, attempt = 15_000 } = options;
  return async (request) => {
    const end = performance.now() + deadline;
    const headers = new Headers(request.headers);
    if (request.method === "POST" && !headers.has("Idempotency-Key")) {
      headers.set("Idempotency-Key", crypto.randomUUID()); // one for the call, not one for each attempt
    }
    const body = request.body === null ? null : await request.arrayBuffer();
    for (let longest = FIRST_WAIT; ; longest = Math.min(2 * longest, LONGEST_WAIT)) {
      let answer: Response | undefined;
      let failure: unknown;
      const time = Math.max(1, Math.min(attempt, end - performance.now()));
      try {
        const signal = AbortSignal.any([request.signal, AbortSignal.timeout(time)]);
        // A redirect that is followed turns a POST into a GET, and loses the usage.
        answer = await whole(await fetch(request.url, { method: request.method, headers, body, redirect: "manual", signal }));
        if (!RETRIED.has(answer.status)) return answer;
      } catch (error) {
        if (request.signal.aborted) throw error;
        failure = error; // no answer, or only a part of one: the call may have done its work
      }
      const wait = retryAfter(answer) + Math.random() * longest;
      if (performance.now() + wait >= end) {
        if (answer !== undefined) return answer;
        throw failure;
      }
      await new Promise((resume) => setTimeout(resume, wait));
    }
  };
}

/** The answer with its whole body: where that breaks off, the attempt has failed. */
async function whole(answer: Response): Promise<Response> {
  const bytes = await answer.arrayBuffer();
  const { status, statusText, headers } = answer;
  return new Response([204, 205, 304].includes(status) ? null : bytes, { status, statusText, headers });
}

/** Milliseconds that the service asks to wait. It sends seconds. */
function retryAfter(answer: Response | undefined): number {
  const seconds = Number(answer?.headers.get("Retry-After") ?? 0);
  return Number.isFinite(seconds) ? Math.max(0, seconds) * 1000 : 0;
}
