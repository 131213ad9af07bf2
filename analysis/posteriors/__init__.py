"""The posterior of one curve by quadrature, its noise model and priors, and what is read off its draws."""
