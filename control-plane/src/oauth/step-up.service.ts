import { isSteppedUp, type LoginFacts, type StepUpNeeds } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import type { ServerOf } from './object-store.service.ts';
import type { OAuthSettingsService } from './settings.service.ts';

type Parameters = Readonly<Record<string, unknown>>;

/**
 * What the login behind an authorization must be like: what the endpoint needs, whether the client asks for it or not, and
 * else what the client asks for (`acr_values`, `max_age`; RFC 9470 §4).
 */
export class StepUpService {
  private readonly options: { settings: OAuthSettingsService; serverOf: ServerOf; clock: Clock };

  constructor(options: { settings: OAuthSettingsService; serverOf: ServerOf; clock: Clock }) {
    this.options = options;
  }

  /** Of an authorization request. */
  async neededFor({ resource, acr_values: acrValues, max_age: maxAge }: Parameters): Promise<StepUpNeeds> {
    const own = await this.ofResource(resource);
    const asked = typeof acrValues === 'string' ? acrValues.split(' ').filter((acr) => acr !== '') : [];
    const ages = [own?.maxAgeSeconds, typeof maxAge === 'number' || typeof maxAge === 'string' ? Number(maxAge) : null];
    const known = ages.filter((age): age is number => typeof age === 'number' && Number.isFinite(age));
    return {
      acrValues: own !== undefined && own.acrValues.length > 0 ? own.acrValues : asked,
      maxAgeSeconds: known.length === 0 ? null : Math.min(...known),
    };
  }

  /** Whether tokens for the resource may be made by this login. */
  async allows(resource: unknown, login: LoginFacts): Promise<boolean> {
    const own = await this.ofResource(resource);
    return own === undefined || this.isMet(own, login);
  }

  isMet(needs: StepUpNeeds, login: LoginFacts): boolean {
    return isSteppedUp(needs, login, this.options.clock.now());
  }

  private async ofResource(resource: unknown): Promise<StepUpNeeds | undefined> {
    const { stepUp } = await this.options.settings.read();
    if (stepUp.length === 0 || typeof resource !== 'string') return undefined;
    const serverId = await this.options.serverOf(resource);
    return stepUp.find((one) => one.serverId === serverId);
  }
}
