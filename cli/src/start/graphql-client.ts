import { z } from 'zod';

const requestTimeoutMs = 30_000;

const Reply = z.object({
  data: z.record(z.string(), z.unknown()).nullish(),
  errors: z
    .array(
      z.object({
        message: z.string(),
        extensions: z
          .object({
            code: z.string().optional(),
            violations: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
          })
          .optional(),
      }),
    )
    .optional(),
});

/** An answer with `errors`; the message joins them with their violations. */
export class GraphqlError extends Error {
  readonly codes: readonly string[];

  constructor(message: string, codes: readonly string[]) {
    super(message);
    this.name = 'GraphqlError';
    this.codes = codes;
  }
}

/** Asks one endpoint of the control plane with one token, and parses `data` with the caller's schema. */
export interface GraphqlClient {
  ask<T>(document: string, variables: Readonly<Record<string, unknown>>, data: z.ZodType<T>): Promise<T>;
}

export function createGraphqlClient(endpoint: string, token: string | undefined): GraphqlClient {
  return {
    ask: async (document, variables, data) => {
      const response = await fetch(endpoint, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        },
        body: JSON.stringify({ query: document, variables }),
        signal: AbortSignal.timeout(requestTimeoutMs),
      }).catch((cause: unknown) => {
        throw new Error(`${endpoint} does not answer.`, { cause });
      });
      const reply = Reply.safeParse(await response.json().catch(() => undefined));
      if (!reply.success) throw new Error(`${endpoint} answered ${response.status} and not GraphQL.`);
      const errors = reply.data.errors ?? [];
      if (errors.length > 0) {
        const lines = errors.map(({ message, extensions }) =>
          [message, ...(extensions?.violations ?? []).map(({ path, message: what }) => `${path}: ${what}`)].join(' '),
        );
        throw new GraphqlError(
          lines.join('; '),
          errors.flatMap(({ extensions }) => extensions?.code ?? []),
        );
      }
      return data.parse(reply.data.data);
    },
  };
}
