import { z } from 'zod';

/** Most questions that one exchange carries to the client, and most of a sampling request: what no server may exceed. */
export const asksPerExchangeMax = 64;
export const samplingTokensMax = 1_000_000;
export const askBytesMax = 1_048_576;
export const elicitationHostsMax = 64;

/** What a server may ask of clients. What is not allowed here is refused, and the server is not told that clients can. */
export const upstreamAsksSchema = z.strictObject({
  sampling: z.boolean(),
  roots: z.boolean(),
  elicitation: z.boolean(),
  /** Questions of one exchange. */
  perExchangeMax: z.number().int().min(1).max(asksPerExchangeMax),
  /** `maxTokens` of one sampling request. */
  samplingTokensMax: z.number().int().min(1).max(samplingTokensMax),
  /** Of one question, in bytes. */
  bytesMax: z.number().int().min(1).max(askBytesMax),
  /** Hosts besides the server's own to which it may send people, in lower case. Sorted. */
  elicitationHosts: z.array(z.string().min(1).max(253)).max(elicitationHostsMax),
});
export type UpstreamAsks = z.infer<typeof upstreamAsksSchema>;

/** Where nothing is said. */
export const noAsks: UpstreamAsks = {
  sampling: false,
  roots: false,
  elicitation: false,
  perExchangeMax: 8,
  samplingTokensMax: 4_096,
  bytesMax: 65_536,
  elicitationHosts: [],
};

const capabilities = ['sampling', 'roots', 'elicitation'] as const;
/** By what is allowed, as bits: the lists are the same objects each time. */
const refusedLists = Array.from({ length: 8 }, (_, bits) =>
  capabilities.filter((_name, at) => (bits & (1 << at)) === 0),
);

/** The capabilities of clients that a server is not told of. */
export function refusedCapabilities(asks: UpstreamAsks | undefined): readonly string[] {
  if (asks === undefined) return capabilities;
  const bits = Number(asks.sampling) + 2 * Number(asks.roots) + 4 * Number(asks.elicitation);
  return refusedLists[bits] ?? capabilities;
}
