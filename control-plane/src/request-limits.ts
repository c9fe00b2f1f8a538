import { AppError } from '@sallyport/schema';
import { Buckets, type Clock, networkOf } from '@sallyport/schema/platform';

/** How long one may ask at the highest rate after a pause, in seconds: how much a full bucket holds. */
const burstSeconds = 60;
const keysMax = 10_000;
/** Registrations of one network: at once, and how many it earns back in a second. */
const registrationsBurst = 20;
const registrationsPerSecond = 1 / 30;

export interface RequestRates {
  readonly networkPerSecond: number;
  readonly holderPerSecond: number;
}

/**
 * How often the authorization server and SCIM may be asked: by one network, and by one holder who has proved who he is
 * (a client for a user, a directory), so that nobody uses up what is another's by his name (decision 0056). Of this
 * process alone, in bounded memory.
 */
export class RequestLimits {
  readonly #networks: Buckets;
  readonly #holders: Buckets;
  readonly #registrants: Buckets;

  constructor(clock: Clock, { networkPerSecond, holderPerSecond }: RequestRates) {
    const bucketsOf = (perSecond: number): Buckets =>
      new Buckets({ clock, burst: burstSeconds * perSecond, perSecond, keysMax });
    this.#networks = bucketsOf(networkPerSecond);
    this.#holders = bucketsOf(holderPerSecond);
    const registrations = { burst: registrationsBurst, perSecond: registrationsPerSecond };
    this.#registrants = new Buckets({ clock, ...registrations, keysMax });
  }

  /** @throws AppError RATE_LIMITED; an address that is not known has no limit, since it would be everybody's */
  assertNetworkMayAsk(address: string | null, isRegistration = false): void {
    const network = networkOf(address);
    if (network === undefined) return;
    assertNoWait(this.#networks.take(network));
    if (isRegistration) assertNoWait(this.#registrants.take(network));
  }

  /** @param holder who asks, proved @throws AppError RATE_LIMITED */
  assertHolderMayAsk(holder: string): void {
    assertNoWait(this.#holders.take(holder));
  }
}

function assertNoWait(retryAfterSeconds: number): void {
  if (retryAfterSeconds > 0) throw new AppError('RATE_LIMITED', { data: { retryAfterSeconds } });
}

/** The header of a refusal, in seconds. */
export function retryAfterOf(error: AppError): string {
  const seconds = error.data?.['retryAfterSeconds'];
  return typeof seconds === 'number' ? String(seconds) : '1';
}
