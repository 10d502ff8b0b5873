"""Makes boards, which compare the attacks of several runs, and protocol cards, which describe one run on one page."""
