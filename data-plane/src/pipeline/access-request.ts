import { AccessRequest, type PrincipalRecord } from '@sallyport/schema';
import type { Runtime, ServerRuntime } from '../runtime/runtime.ts';
import type { RequestOf } from './decisions.ts';
import type { Exchange, RuntimeSource } from './exchange.ts';

export interface Asking {
  readonly exchange: Exchange;
  readonly principal: PrincipalRecord;
  readonly server: ServerRuntime;
  readonly runtime: Runtime;
  readonly runtimes: Pick<RuntimeSource, 'now' | 'contactAgeMs'>;
}

/**
 * The exchange as conditions see it, made when the first of them asks.
 * @param readArguments gives the JSON of the call's arguments; null for what is no call
 */
export function accessRequest(asking: Asking, readArguments: (() => string | undefined) | null): RequestOf {
  let made: AccessRequest | undefined;
  return () => {
    made ??= new AccessRequest(factsOf(asking), readArguments);
    return made;
  };
}

function factsOf({ exchange, principal, server, runtime, runtimes }: Asking) {
  const info = exchange.clientInfo ?? '';
  const slash = info.lastIndexOf('/');
  return {
    principal: {
      id: principal.id,
      kind: principal.kind,
      groups: principal.groups.flatMap((id) => runtime.groupNames.get(id) ?? []),
    },
    server: { slug: server.document.slug, labels: server.document.labels },
    client: {
      name: slash < 0 ? info : info.slice(0, slash),
      version: slash < 0 ? '' : info.slice(slash + 1),
      address: exchange.request.remoteAddress ?? '',
    },
    nowMs: runtimes.now(),
    contactAgeMs: runtimes.contactAgeMs(),
  };
}
