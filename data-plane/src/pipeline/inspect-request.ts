import type { Admitted, Inspected } from './exchange.ts';

/**
 * The place where policies look at arguments. No kind of policy reaches nodes yet (the configuration has no document
 * for one), so there is none to apply and the received bytes go on as they are. May change arguments, never the method
 * or the name, which were authorized.
 */
export function inspectRequest(admitted: Admitted): Inspected {
  return { authorized: admitted.authorized, body: admitted.authorized.routed.received.body };
}
